"""Pictures of several systems, rated by people who do not know which system drew what."""
