"""The model server: a master supervises workers (HTTP), a zygote, and the runners it forks."""
