"""What readers get: tables as text, and figures."""
