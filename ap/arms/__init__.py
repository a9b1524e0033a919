"""Arms: the systems that the method is compared with, each behind the same seam as the method itself (docs/arms.md)."""
