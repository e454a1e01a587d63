"""`milepost audit`: run a person's own script in fresh processes, and prove that it resumes exactly, or say what it lacks."""
