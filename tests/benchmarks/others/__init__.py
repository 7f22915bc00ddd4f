"""What runs of other people's servers, in environments of their own."""
