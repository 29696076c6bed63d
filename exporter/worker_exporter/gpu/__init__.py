"""What GPU drivers say: which devices there are, and which processes hold how much of them."""
