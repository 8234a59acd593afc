"""The networks: U-Net and attention over neighbours."""
