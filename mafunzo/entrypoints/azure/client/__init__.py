"""The client side of `mafunzo run`: it points the Azure SDK in a user's script at a Mafunzo server."""
