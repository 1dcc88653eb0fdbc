HELP = "x"
EXAMPLE = "stpredict features"


def add_arguments(p):
    pass


def run(o):
    return 0
