"""The EEG page in parts: what is asked, the linked views, the traces, the saved evaluation."""
