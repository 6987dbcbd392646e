"""What happens to processes and hosts: kills, losses, full disks, strangers."""
