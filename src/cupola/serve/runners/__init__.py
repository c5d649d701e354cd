"""The zygote and the runners: the processes that load models and process requests."""
