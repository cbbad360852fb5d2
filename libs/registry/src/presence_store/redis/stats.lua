-- Connections, users and rooms of the whole cluster.
return {
  tonumber(call('HGET', CONNECTIONS, '') or 0),
  call('HLEN', USERS),
  tonumber(call('HGET', ROOMS, '') or 0),
}
