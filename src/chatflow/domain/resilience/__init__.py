"""What keeps one fault from becoming many, at any stage."""
