"""What runs beside a user's script and leads the Azure SDK to a server of ours."""
