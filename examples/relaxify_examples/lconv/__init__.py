"""LC sec. 4: images of digits, and symmetries read out of networks."""
