"""The gRPC server: state slabs, journal, engine, batcher, services. Loads no Lightning and no pickle."""
