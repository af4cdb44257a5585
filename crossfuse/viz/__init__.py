"""Figures of attention maps: colours, Plotly charts, Matplotlib export. No Streamlit here."""
