"""What every service process is made of: its settings and its life."""
