"""From files to prompts, and from rollouts to rectangles."""
