"""Two cascades that anyone can build: photos (``imagenet``) and musical pitch (``pitch``).

Every weight comes inside a package of the ``demo`` extra; nothing is fetched when they are built.
"""
