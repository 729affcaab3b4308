"""Device profiles, one TOML a device, and their loader."""
