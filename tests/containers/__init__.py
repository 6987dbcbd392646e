"""The peers in containers, on a real engine; without one these tests skip."""
