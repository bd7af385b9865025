"""What a GraphQL request may cost, before it is executed, and how large its answer may become."""
