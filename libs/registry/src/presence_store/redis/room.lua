-- Counts of a room: ARGV is namespace, room. Answers with members and sockets.
return {
  call('ZCARD', MEMBERS .. ARGV[1] .. '\0' .. ARGV[2]),
  tonumber(call('HGET', INSIDE .. ARGV[1], ARGV[2]) or 0),
}
