"""Questions to servers: what is asked, kept, paid and counted."""
