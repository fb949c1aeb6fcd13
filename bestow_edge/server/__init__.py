"""The server: many sessions on one loaded model, over HTTP and WebSockets."""
