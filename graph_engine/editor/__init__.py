"""The visual editor's saved graphs without the editor: reading them, and drawing a document for it."""
