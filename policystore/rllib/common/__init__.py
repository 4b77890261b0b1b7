"""What both API stacks share."""
