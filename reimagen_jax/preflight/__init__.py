"""What a program would need and take on a TPU pod, found out without one: chips, compiled programs, rooflines."""
