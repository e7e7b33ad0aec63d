"""Entities: the business resources that documents can be linked to.

An entity is registered before its first link (or with it: the policy `any`). Its deletion removes its links
in several transactions (service/store/writing/alone.py).
"""
