"""Everything that touches Streamlit: shared widgets, texts, navigation, the linked view."""
