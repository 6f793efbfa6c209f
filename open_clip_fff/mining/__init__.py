"""Who is a positive for whom: Eq. 1 of FFF, identity by sample id, and the one small type that losses understand."""
