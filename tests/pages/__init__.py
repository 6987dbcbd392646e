"""The live page in a headless Chromium, and runs that are watched."""
