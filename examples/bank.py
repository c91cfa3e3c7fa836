"""A stand-in for the bank's payment gateway. Yours calls the real one."""


def decline(payment: str) -> None:
    """Do not let a payment through."""
    print(f"declined {payment}")
