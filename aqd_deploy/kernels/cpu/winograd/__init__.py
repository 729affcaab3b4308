"""The Winograd family: the plan of its tiles, the transforms of inputs and outputs, the products between."""
