"""What programs of the agents may import and read in the sandbox: nothing here judges (see SCRIPTS of a domain)."""
