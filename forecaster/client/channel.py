"""How both clients open their channel."""

OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # forecasts of many series are larger than the default 4 MB
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a server that restarts is found again within a second
)
