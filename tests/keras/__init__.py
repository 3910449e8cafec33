"""Real TensorFlow on real images, unaware that it reads a mount."""
