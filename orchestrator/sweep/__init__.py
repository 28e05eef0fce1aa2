"""The sweep file: its keys, its axes, and the variants and trials that follow from them."""
