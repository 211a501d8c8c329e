"""The demo: two networks on three workers, one of which is killed under load, and every answer checked."""
