"""Image quality metrics, each as its authors computed it."""
