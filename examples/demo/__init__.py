"""The demo: data of known entropy, a model made on the spot, SFT beside UAL."""
