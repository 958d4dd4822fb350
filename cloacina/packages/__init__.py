"""The ``.cloacina`` archive: packing, verifying, extracting, loading and inspecting it. Import the modules by name:
worker processes need only `loader`, and start faster without the rest."""
