"""A worker process: it speaks HTTP and forwards requests to runners. No torch here."""
