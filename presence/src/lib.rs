//! Who is where: applies gateways' reports, answers and announces.
