"""The workflows that can be executed: what packages declare, what the engine makes of it, what inputs they take."""
