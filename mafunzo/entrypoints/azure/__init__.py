"""The Azure SDK's way in: its wire, files of `az ml`, blobs, and what runs beside a user's script."""
