"""Every file here but base.py and registry.py is a method: its objective, its settings, its class. Nothing else is
needed to add one; what several methods share is in parts/.
"""
