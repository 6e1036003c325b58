"""kvlib beside other packages, timed."""
