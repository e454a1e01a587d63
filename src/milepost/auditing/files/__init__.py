"""Files of audited processes: where they really are, and which are written."""
