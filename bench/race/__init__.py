"""The relays that `bench.peers` compares, and what drives and counts them."""
