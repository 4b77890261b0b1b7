"""What the driver and the workers send each other, and how it travels."""
