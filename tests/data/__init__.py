"""Files that earlier commits made, and what made them."""
