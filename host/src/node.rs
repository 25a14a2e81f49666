//! Wires the rooms from bottom to top, and stops them from top to bottom. The only file that sees everything.
